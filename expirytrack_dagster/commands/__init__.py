"""The commands of `expirytrack` by subject, one module a subject.

Here: options, questions to the person, printing, exit codes. Not here: anything that a run in the Dagster UI does too;
that is one call to the code below. `cli.py` joins them into the one program.
"""
