#!/bin/sh
# Prints 4,000 generated English sentences, a blank line after every eight: text for tests that need no more.
exec awk 'BEGIN {
  split("cat dog cow hen fox owl pig bee ant rat", who); split("sat stood slept ran sang", did); split("mat hill road farm barn tree", where)
  for (i = 0; i < 4000; ++i) {
    printf "The %s %s on the %s and the %s %s there, too.\n", who[i % 10 + 1], did[i % 5 + 1], where[i % 6 + 1], who[int(i / 7) % 10 + 1], did[int(i / 3) % 5 + 1]
    if (i % 8 == 7) print ""
  }
}'
