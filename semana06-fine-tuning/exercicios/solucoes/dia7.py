import math
import sqlite3
from collections import Counter

Z = 1.959964


def same_rows(found, expected, ordered):
    return found == expected if ordered else Counter(found) == Counter(expected)


def execution_accuracy(bank, pairs):
    hits = 0
    for predicted, reference in pairs:
        try:
            found = bank.execute(predicted).fetchall()
        except sqlite3.Error:
            continue
        expected = bank.execute(reference).fetchall()
        hits += same_rows(found, expected, "order by" in reference.lower())
    return hits / len(pairs)


def wilson(hits, total):
    share, scale = hits / total, 1 + Z**2 / total
    center = (share + Z**2 / (2 * total)) / scale
    half = Z * math.sqrt(share * (1 - share) / total + Z**2 / (4 * total**2)) / scale
    return center - half, center + half
