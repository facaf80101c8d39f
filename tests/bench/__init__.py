"""The benchmark: what the proxy costs, compared with other programs that could take its place.

A figure is a ratio to a peer that ran on the same machine and core within the same minutes:
absolute times describe the machine, ratios the code. A run in which any stream was not answered in
full gives no figure.

    load ──core 0──> proxy or peer ──core 1──> mock ──core 0

wire        the texts and events that load and mock share
mock        the upstream
load        the clients, which check that each answer is complete
measure     CPU time and memory of a process, from the kernel
targets     the processes to measure: ours and the peers
naive       a peer of our own: the simplest translator
fpl_app     the application of a peer, run in the peer's own environment
alone       the translation without sockets, compared with copying its output
rounds      interleaved samples, and the ratios between them
figures     what is measured, and the targets
report      the rows as a table, Markdown or JSON
plot        CPU time against length, as SVG
"""
