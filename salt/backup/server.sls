# The Amanda server: keys, configs, tapes, schedule.
Amanda engine:
  amanda.engine:
    - require:
      - sls: backup.host

encryption keys:
  amanda.encryption_keys:
    - require:
      - amanda: Amanda engine

mail for the dump user:
  amanda.mail_alias:
    - require:
      - sls: backup.packages

{% for config in pillar['backup'].get('configs', {'daily': {}}) %}
Amanda config {{ config }}:
  amanda.config:
    - name: {{ config | json }}
    - source: salt://backup/files/amanda.conf.jinja
    - require:
      - amanda: encryption keys

tapes of {{ config }}:
  amanda.labelled:
    - name: {{ config | json }}
    - require:
      - amanda: Amanda config {{ config }}
{% endfor %}

scheduled backups:
  amanda.scheduled:
    - require:
      - amanda: Amanda engine
