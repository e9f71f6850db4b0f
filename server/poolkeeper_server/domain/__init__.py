"""What Poolkeeper decides, and nothing of how it is stored or asked.

Standard library only: no clock, randomness, SQL, RPC, logging or await. Time is a `Moment`, new names come from an
`Ids`, and everything that is read or changed lies in a `State` that the caller loaded.
"""
