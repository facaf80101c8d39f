"""Packages that tests need and the environment of the project does not have.

places       where each is installed, and how
installer    installs them, in a process of its own
installed    waits for them, and skips or fails what cannot have them
"""
