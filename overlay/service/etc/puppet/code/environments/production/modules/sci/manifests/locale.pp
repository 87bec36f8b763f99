# From SCI-CD, overlay/service: the system's locale. C.UTF-8 is built in.
class sci::locale {
  $locale = $sci::locale
  $charmap = 'UTF-8'

  package { 'locales':
    ensure => installed,
  }
  if $locale != 'C.UTF-8' {
    exec { 'sci: name the locale':
      command => "/bin/sh -c 'echo \"${locale} ${charmap}\" >>/etc/locale.gen'",
      unless  => "/usr/bin/grep -qxF '${locale} ${charmap}' /etc/locale.gen",
      require => Package['locales'],
    }
    # By what is there, so that one that was cut off is made again.
    $compiled = $locale.regsubst('\.UTF-8', '.utf8')
    exec { 'sci: make the locale':
      command => '/usr/sbin/locale-gen',
      unless  => "/usr/bin/localedef --list-archive | /usr/bin/grep -qxF '${compiled}'",
      require => Exec['sci: name the locale'],
      before  => Exec['sci: use the locale'],
      timeout => 1800,
    }
  }
  exec { 'sci: use the locale':
    command => "/usr/sbin/update-locale LANG=${locale}",
    unless  => "/usr/bin/grep -qxE 'LANG=\"?${locale}\"?' /etc/default/locale",
    require => Package['locales'],
  }
}
