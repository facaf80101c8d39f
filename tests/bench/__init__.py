"""The bench: what the proxy costs, beside what else could stand in its place.

A figure is a ratio to a peer that ran on the same machine, on the same core, in the same minutes.
Absolute times tell of the machine; ratios tell of the code. A run that did not answer every stream
in full has no figure.

    load ──core 0──> proxy or peer ──core 1──> mock ──core 0

wire        what load and mock agree on
mock        the upstream
load        the clients, and the check that each answer is whole
measure     what the kernel knows of a process
targets     the processes: ours and the peers
naive       a peer of our own: the translator that one would write first
fpl_app     a peer's application, run by the peer's own interpreter
alone       the translation without a socket, beside a copy of its bytes
rounds      samples, taken in turn, and the ratios between them
figures     what is measured, and what is wanted of it
report      rows as a table, Markdown or JSON
plot        cost against length, as SVG
"""
