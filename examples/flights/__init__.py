"""A month of real flights through a queue and two groups, and the books that prove that nothing was lost or doubled.

`app.py` is the program that you would write: a bus and three handlers. The rest sends the flights,
waits until all of them have arrived, and checks.
"""
