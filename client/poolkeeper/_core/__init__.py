"""What the SDK decides, without a socket, a clock, a sleep or a thread.

Time, jitter and ids are arguments of everything in here; the shells around it bring them.
"""
