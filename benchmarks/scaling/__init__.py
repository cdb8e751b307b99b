"""How the cost of a call changes as things grow: `make scaling`.

points.py     what is measured at one point of a curve, in a process of its own
curves.py     the curves: their points, what must stay flat, how much memory a point needs
__main__.py   measures all points, writes JSON, a table and a picture (draw.py)
"""
