"""A stand-in for today's API, to try everything without a key.

rules           what it refuses
wire            its answers as bytes
sandbox         the ASGI application
"""
