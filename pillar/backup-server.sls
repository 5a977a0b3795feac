# For the Amanda server alone. All of it may be left out: these are the defaults, but for the
# length of a tape, which is 100 gbytes. Every key stands in README.md, "Pillar".
backup:
  configs:
    daily:
      # Each directory gets a full dump within this time, and increments on the other days.
      dumpcycle: 7 days
      # One tape a run: so many runs one can go back.
      tapecycle: 10
      # Virtual tapes take the room of what is on them, not their length. What is larger than a
      # tape can't be dumped.
      tapetype:
        length: 20 gbytes
      # In the server's local time; false: by hand only.
      cron: '0 1 * * *'

  # Where the backups go; give the virtual tapes a disk of their own.
  # paths:
  #   tapes: /srv/backup/vtapes
  #   holding: /srv/backup/holding

  # Public keys whose private halves are kept elsewhere: each opens every dump made from then on,
  # without the server. Make one with 'age-keygen -o offsite.key' on a machine that is not backed
  # up here.
  # encryption:
  #   recipients:
  #     - age1…

  # A second copy of the tapes, written as another user, in a directory that is there and his;
  # needs recipients.
  # mirror:
  #   user: mirror
  #   directory: /net/mirror/backups
  #   keep: 30 days
