# For the Amanda server alone.
backup:
  configs:
    daily:
      dumpcycle: 7 days
      tapecycle: 10
      tapetype:
        length: 20 gbytes
      cron: '0 1 * * *'

  # Where the backups go; give the virtual tapes a disk of their own.
  # paths:
  #   tapes: /srv/backup/vtapes
  #   holding: /srv/backup/holding

  # Public keys whose private halves are kept elsewhere: each opens every dump, without the
  # server. Make one with 'age-keygen -o offsite.key' on a machine that is not backed up here.
  # encryption:
  #   recipients:
  #     - age1…

  # A second copy of the tapes, written as another user; needs recipients.
  # mirror:
  #   user: mirror
  #   directory: /net/mirror/backups
  #   keep: 30 days
