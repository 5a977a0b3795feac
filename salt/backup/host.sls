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

# Amanda's debug files grow by about a megabyte a run, for ever.
Amanda debug files are pruned:
  file.managed:
    - name: /etc/tmpfiles.d/salt-amanda.conf
    - contents: |
        # Written by Salt. Read by systemd-tmpfiles-clean.timer, daily; see tmpfiles.d(5).
        e /var/log/amanda - - - 14d
    - mode: '0644'
    - require:
      - sls: backup.packages
