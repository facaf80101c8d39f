"""Completions and Messages, as several version changes read and make them.

leniently           values of any type, read as those of one type
parameters          those of requests that more than one change knows
messages_requests   requests for Messages, wherever a call has them
endings             how an answer ends: complete, or with a failure
growth              what is new in a text that was sent before
message_so_far      a Message, assembled from the events of its stream
message_increments  the events that lead from one Message to the next
"""
