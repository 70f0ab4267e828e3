"""Keep dnsmasq's hosts file equal to a cluster's Services: `dns_sync.py KUBECONFIG HOSTS_FILE DNSMASQ_PID_FILE`.

Written: a ClusterIP Service's name; a headless Service's ready endpoints under its name, and each endpoint that has a
hostname (a pod of a StatefulSet or of an indexed Job) under hostname.service. Not written: SRV and pod records,
ExternalName. CoreDNS is rejected since it would have to come as an image, and there is no registry to take it from.
"""

import os
import signal
import sys
from pathlib import Path

from api import Api, Object, every_second

DOMAIN = "svc.cluster.local"


def records(services: list[Object], slices: list[Object]) -> str:
    """The hosts file: an address and a name a line, sorted."""
    headless, found = set(), set()
    for service in services:
        name, namespace = service["metadata"]["name"], service["metadata"]["namespace"]
        address = service["spec"].get("clusterIP")
        if address == "None":
            headless.add((namespace, name))
        elif address:
            found.add((address, f"{name}.{namespace}.{DOMAIN}"))
    for each in slices:
        namespace = each["metadata"]["namespace"]
        name = (each["metadata"].get("labels") or {}).get("kubernetes.io/service-name")
        if (namespace, name) not in headless:
            continue
        for endpoint in each.get("endpoints") or []:
            if (endpoint.get("conditions") or {}).get("ready") is False:
                continue
            for address in endpoint["addresses"]:
                found.add((address, f"{name}.{namespace}.{DOMAIN}"))
                if endpoint.get("hostname"):
                    found.add((address, f"{endpoint['hostname']}.{name}.{namespace}.{DOMAIN}"))
    return "".join(f"{address} {name}\n" for address, name in sorted(found))


def main(kubeconfig: str, hosts_file: str, dnsmasq_pid_file: str) -> None:
    api, hosts, pid_file = Api(Path(kubeconfig)), Path(hosts_file), Path(dnsmasq_pid_file)

    def reconcile() -> None:
        text = records(api.items("/api/v1/services"), api.items("/apis/discovery.k8s.io/v1/endpointslices"))
        if not hosts.exists() or hosts.read_text() != text:
            written = hosts.with_suffix(".new")
            written.write_text(text)
            written.replace(hosts)
            os.kill(int(pid_file.read_text()), signal.SIGHUP)

    every_second(reconcile)


if __name__ == "__main__":
    main(*sys.argv[1:])
