"""What the rooms above share of the event loop, of threads and of sockets.

interruption    work that may be interrupted from outside
offload         long computations, in a thread
sockets         TCP options and counters
daemonthread    threads that may block for ever
alarm           one timer for a deadline that moves all the time
"""
