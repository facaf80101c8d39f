"""What is told of exchanges: the log, metrics, traces and the migration ledger.

observe         the record of an exchange, and the log line made of it
logs            the log's formats, and its handler
sharedmetrics   metrics of several processes, summed
metrics         the metrics made of records
spans           OpenTelemetry's spans of an exchange
tracing         whether there are any
tally           counts of exchanges
ledger          who needs the proxy: counted,
ledgerfile      kept in a file,
journal         that several processes share,
report          and printed
"""
