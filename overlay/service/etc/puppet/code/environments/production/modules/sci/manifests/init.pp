# From SCI-CD, overlay/service: what Puppet keeps on every machine of the site. It
# leaves alone what others own: networks, /etc/hosts, time and apt's sources are
# sci-agent's, disks, SSH keys of root and the cluster are Ganeti's.
#
# @param locale of the system, as the site file has it
# @param timezone as the site file has it
# @param admins people with accounts of their own
# @param mail where mail to root goes; undef leaves it on the machine
# @param roles of the site's hosts by full name; what is not in it is an instance
class sci (
  String[1] $locale = 'en_US.UTF-8',
  String[1] $timezone = 'Etc/UTC',
  Array[Struct[{ name => Pattern[/\A[a-z][a-z0-9_-]{0,30}\z/], keys => Array[String[1]] }]] $admins = [],
  Optional[Struct[{ root => String[1], smarthost => String[1] }]] $mail = undef,
  Hash[String, String] $roles = {},
) {
  $role = $roles[$trusted['certname']] ? {
    undef   => 'instance',
    default => $roles[$trusted['certname']],
  }
  include sci::locale
  include sci::timezone
  include sci::upgrades
  include sci::admins
  include sci::mail
}
