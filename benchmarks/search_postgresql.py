"""What search.py measures, on PostgreSQL: python benchmarks/search_postgresql.py [--documents 100000] [--quick]."""

import sys

from search import main

sys.argv.insert(1, "--postgresql")
main()
