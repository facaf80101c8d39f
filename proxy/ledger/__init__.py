"""The migration ledger: who still needs the proxy, for what, and since when.

tally           counts of exchanges
ledger          what they are counted by: clients
ledgerfile      the file that keeps it
journal         several processes that share it
report          the ledger as others read it
"""
