"""What is told of exchanges: the log, metrics and traces.

record          what is known of one exchange, and the log line made of it
handlers        the log's handlers, which never block
logs            the log: its formats, and what goes into it
sharedmetrics   metrics of several processes, summed
metrics         the metrics made of records
spans           OpenTelemetry's spans of an exchange
tracing         whether there are any
"""
