"""The store of several daemons: one PostgreSQL database, found through asyncpg.

Correctness rests on one row. Every transaction of every committer begins by locking the installation's mark, so that
batches follow one another whichever daemon they come from, in the order of their commits; and the time of each is
read from the database server's clock while the lock is held. Daemons do the rest of their work beside one another:
calls, authentication, signatures and listings, which is most of it.
"""
