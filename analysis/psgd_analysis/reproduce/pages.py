"""(being written)"""


def write(e, records, out):
    pass


def show(e, records, scale, terminal):
    import collections

    for r in e.select(scale, records):
        print(r.cell, r.seed, r.status, dict(r.final), round(r.cpu_seconds, 1), r.error)


def listing(es, out):
    return str(es)
