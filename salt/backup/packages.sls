# Amanda and what its Debian packages don't bring along.
{% import_yaml 'backup/packages.yaml' as families %}
{% set packages = families[grains['os_family']] %}

backup packages:
  pkg.installed:
    - pkgs: {{ packages.client | json }}
    - install_recommends: False
    - require:
      - sls: backup.pillar

{% if pillar['backup'].get('server') == grains['id'] %}
backup server packages:
  pkg.installed:
    - pkgs: {{ packages.server | json }}
    - install_recommends: False
    - require:
      - pkg: backup packages
{% endif %}

backup SSH daemon:
  service.running:
    - name: {{ packages.ssh_service }}
    - enable: True
    - require:
      - pkg: backup packages
