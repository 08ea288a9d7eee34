"""What stands between a program that a model wrote and this machine. `nanochat.execution` is the door to it.

`seccomp.py` builds the filter of system calls, in the parent. `site.py` runs in the child, before the program: it
locks the process it is in. `trusted.py` is the runner without locks, for a user who said that the model is trusted.
"""
