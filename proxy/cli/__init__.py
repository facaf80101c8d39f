"""The command line.

terminal        the standard streams
demo            an old client's call, with both wires
arguments       the commands and options, and their help
cli             what each command does
"""
