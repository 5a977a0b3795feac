# Everything a minion needs to be backed up or, if pillar backup:server names it, to back up the
# others: one `salt '*' state.apply backup`, on all minions at once.
#
# Modules are synced first, since only a highstate does so by itself.
{% do salt['saltutil.sync_all'](refresh=False) %}
# Functions and scheduled jobs go by the pillar that the minion keeps in memory, states by the
# master's of this moment: what was changed must count for both. A salt-call may have no minion.
{% do salt['saltutil.refresh_pillar'](wait=opts.get('__cli') != 'salt-call') %}
{% set backup = pillar.get('backup') %}

{% if not backup %}
backup pillar:
  test.show_notification:
    - text: This minion has no pillar 'backup', so nothing is done. See README.md, "Quick start".
{% else %}
{% set known = backup is mapping %}
{% set server = known and backup.get('server') == grains['id'] %}
{# Left empty in the pillar they are the default; only {} withdraws. #}
{% set client = known and backup.get('directories') != {} %}
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
  {% if known %}
  - backup.{{ 'client' if client else 'withdrawn' }}
  {% endif %}
{% endif %}
