# Every minion is backed up; the Amanda server alone gets what only it needs to know.
base:
  '*':
    - backup
  backup-server:
    - backup-server
