# A client tells the server what to back up and where, and lets it in: Amanda and nothing else.
amrecover's configuration:
  amanda.client_config:
    - require:
      - sls: backup.host

published to the server:
  amanda.published:
    - require:
      - sls: backup.host

# Waits up to five minutes for the server's key, so it comes last.
server's key authorized:
  amanda.server_authorized:
    - timeout: 300
    - require:
      - amanda: published to the server
    - order: last
