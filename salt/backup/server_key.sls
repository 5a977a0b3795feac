# The server's SSH key comes first, and is published at once: the clients wait for it.
server's SSH key:
  amanda.server_key:
    - require:
      - sls: backup.pillar
