"""Numbers beyond which a setting is a slip of the hand and is refused before anything is tried."""

from __future__ import annotations

SMALLEST_SEED, LARGEST_SEED = -(2**63), 2**64 - 1  # torch's generators take no other
MOST_IMAGES = 10_000_000  # made, cut or measured by one command
LARGEST_BATCH = 2**20  # samples at a time
LARGEST_SIDE = 16_384  # pixels of an image that is made or asked for
MOST_COLUMNS = 1000  # of a picture of pictures
MOST_PROCESSES = 1024  # or threads, or jobs, on one machine
