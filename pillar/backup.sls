# For every minion that is to be backed up.
backup:
  # The minion id of the Amanda server.
  server: backup-server

  # What to back up; this is the default. Any SLS can add to it with the state amanda.directory.
  # directories:
  #   /etc:
  #   /home:
  #   /srv/data: {exclude: ['./tmp', './*.iso']}
