import random


def jaccard(left, right):
    return len(left & right) / len(left | right) if left | right else 0.0


def split_by_group(groups, share, seed):
    order, test = sorted(set(groups)), set()
    random.Random(seed).shuffle(order)
    while sum(group in test for group in groups) < share * len(groups):
        test.add(order.pop())
    return [group in test for group in groups]


def families(size, pairs):
    found = list(range(size))
    for one, other in pairs:
        old, new = found[one], found[other]
        found = [new if group == old else group for group in found]
    return found
