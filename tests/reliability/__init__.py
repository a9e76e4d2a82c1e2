"""What fit3d promises under faults, and the programs that try to break it.

Each module here tries one kind of fault and registers its checks in ``base.CHECKS``. A check runs
at two sizes: the small one in ``make test``, the whole in ``make reliability``, which prints one
table (``python -m tests.reliability --help``).
"""
