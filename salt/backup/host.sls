# What server and clients share: the dump user and the least power that Amanda can work with.
dump user:
  amanda.dump_user:
    - require:
      - sls: backup.packages

hardened Amanda:
  amanda.hardened:
    - require:
      - sls: backup.packages

Amanda client programs:
  amanda.client_programs:
    - require:
      - amanda: dump user
