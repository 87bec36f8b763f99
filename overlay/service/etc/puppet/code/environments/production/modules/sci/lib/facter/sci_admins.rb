# From SCI-CD, overlay/service: who is an administrator of this machine now, so
# that whoever is taken out of the site file loses it.
Facter.add(:sci_admins) do
  setcode do
    line = File.readlines('/etc/group', chomp: true).find { |l| l.start_with?('sci-admins:') }
    line ? line.split(':', -1)[3].to_s.split(',').sort : []
  end
end
