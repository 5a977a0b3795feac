# An error in the pillar is named before anything changes; every other part requires this one.
backup pillar:
  amanda.pillar_valid
