"""Every engine a user could pick, measured in turns on the same weights, texts and threads.

Each contender is a row (``contender``) that one small file per family fills; it lives in a process of its own
(``worker``, ``child``) that sleeps while others have their turn (``turns``). ``run`` puts it together.
"""
