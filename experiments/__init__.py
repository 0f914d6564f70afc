"""Real learning experiments, small enough to read: Episight's hooks at work.

``python -m experiments`` runs one; ``experiment=NAME`` chooses which.
"""
