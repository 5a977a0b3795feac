# For every minion that is to be backed up. Every key stands in README.md, "Pillar".
backup:
  # The minion id of the Amanda server. The only key that must be given.
  server: backup-server

  # What to back up. Without it /etc and /home; what is written here replaces these two. Any SLS
  # can add to it with the state amanda.directory. {} takes the minion out of the backup.
  # directories:
  #   /etc:
  #   /home:
  #   /srv/data: {exclude: ['./tmp', './*.iso']}
