"""What is told of exchanges: the log, metrics and traces.

record          what is known of one exchange, and the log line made of it
logs            the log's formats, and its handler
sharedmetrics   metrics of several processes, summed
metrics         the metrics made of records
spans           OpenTelemetry's spans of an exchange
tracing         whether there are any
"""
