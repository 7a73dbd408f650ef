"""Campaigns that try to lose data, leak, block or get in. `scripts/torture NAME` runs one for as long as it is told.

A campaign is a function of `Orders` that returns a `Verdict`: what it did, in counts, and what it found. It never
stops at the first finding unless it cannot go on. Whatever is random comes from the seed, so a finding can be made
again as far as the machine's own timing allows; what cannot be repeated is the moment at which a process is killed.
The campaigns share nothing with the daemon but its protocol, except where they put themselves in the place of its
disk.
"""
