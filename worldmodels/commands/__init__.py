"""One module a command, and `console` that finds and runs them for the shell and for scripts/.

What a command does lives elsewhere.
"""
