# `directories: {}` in the pillar: this minion is not backed up, and the server is kept out.
withdrawn from the backup:
  amanda.withdrawn:
    - require:
      - sls: backup.pillar
