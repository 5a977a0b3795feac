# Everything a minion needs to be backed up or, if pillar backup:server names it, to back up the
# others: one `salt '*' state.apply backup`, on all minions at once.
#
# Modules are synced first, since only a highstate does so by itself.
{% do salt['saltutil.sync_all'](refresh=False) %}
{% set backup = pillar.get('backup') %}

{% if not backup %}
backup pillar:
  test.show_notification:
    - text: This minion has no pillar 'backup', so nothing is done. See README.md, "Quick start".
{% else %}
{% set server = backup.get('server') == grains['id'] %}
{% set client = backup.get('directories', true) %}
include:
  - backup.pillar
  {% if server %}
  - backup.server_key
  {% endif %}
  {% if server or client %}
  - backup.packages
  - backup.host
  {% endif %}
  {% if server %}
  - backup.server
  {% endif %}
  - backup.{{ 'client' if client else 'withdrawn' }}
{% endif %}
