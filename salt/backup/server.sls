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

# What is no mapping is named by the first state, which these require.
{% set configs = pillar['backup'].get('configs') or {'daily': {}} %}
{% for config in (configs if configs is mapping else []) %}
{{ ("Amanda config " ~ config) | json }}:
  amanda.config:
    - name: {{ config | json }}
    - source: salt://backup/files/amanda.conf.jinja
    - require:
      - amanda: encryption keys

{{ ("tapes of " ~ config) | json }}:
  amanda.labelled:
    - name: {{ config | json }}
    - require:
      - amanda: {{ ("Amanda config " ~ config) | json }}
{% endfor %}

{% if pillar['backup'].get('mirror') %}
# It may be unmounted for now: nothing else waits for it.
mirror:
  amanda.mirror_usable:
    - require:
      - sls: backup.pillar
{% endif %}

# Last, once all that they ask for is there: by these a run goes while the pillar is broken.
settings of the last good apply:
  amanda.settings_kept:
    - require:
      - amanda: encryption keys
      {%- for config in (configs if configs is mapping else []) %}
      - amanda: {{ ("tapes of " ~ config) | json }}
      {%- endfor %}

scheduled backups:
  amanda.scheduled:
    - require:
      - amanda: Amanda engine
