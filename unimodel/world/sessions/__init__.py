"""Worlds that outlive the processes in which they are lived: a log of all that happened, and memories beside it.

RUN/worlds/NAME/
    log.sqlite   every event, action and frame, in order (`log.py`); what is true of the world follows from it alone
    head         how far the log has come, so that a log that lost its end is found out
    memory/      what the model remembered at moments of the past (`snapshots.py`): saves reading all of it again
    lock         held by the process in which the world is lived
    token        what a page must know that joins it (`unimodel play`)
"""
