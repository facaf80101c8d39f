"""The processes that serve clients.

listeners       listening sockets
process         signals, files and garbage collection
reload          the configuration, read again
settings        uvicorn's, and those of connections
server          one process
worker          one process of several
signals         those of the supervisor
crew            its workers, started, commanded and replaced
supervisor      the process that manages them
"""
