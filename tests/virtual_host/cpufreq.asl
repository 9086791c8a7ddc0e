// Copyright: Contributors to the vfio.isolation project
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

// Gives QEMU's CPUs P-states (ACPI 6.4, section 8.4.5), so that the acpi-cpufreq driver runs: four policies
// of two CPUs each. A policy's control and status register is one of the four bytes that pc-testdev keeps at
// I/O ports 0xE0 to 0xE3.

DefinitionBlock ("", "SSDT", 2, "VFIO", "CPUFREQ", 1)
{
    Scope (\_SB)
    {
        // MHz, mW, transition and bus master latency in microseconds, value to write, value to read back
        Name (STAT, Package () {
            Package () { 3000, 30000, 10, 10, 1, 1 },
            Package () { 2000, 20000, 10, 10, 2, 2 },
            Package () { 1000, 10000, 10, 10, 3, 3 }
        })
    }

    Name (\_SB.PCT0, Package () {
        ResourceTemplate () { Register (SystemIO, 8, 0, 0xE0) },
        ResourceTemplate () { Register (SystemIO, 8, 0, 0xE0) }
    })
    Name (\_SB.PSD0, Package () { Package () { 5, 0, 0, 0xFC, 2 } })

    Name (\_SB.PCT1, Package () {
        ResourceTemplate () { Register (SystemIO, 8, 0, 0xE1) },
        ResourceTemplate () { Register (SystemIO, 8, 0, 0xE1) }
    })
    Name (\_SB.PSD1, Package () { Package () { 5, 0, 1, 0xFC, 2 } })

    Name (\_SB.PCT2, Package () {
        ResourceTemplate () { Register (SystemIO, 8, 0, 0xE2) },
        ResourceTemplate () { Register (SystemIO, 8, 0, 0xE2) }
    })
    Name (\_SB.PSD2, Package () { Package () { 5, 0, 2, 0xFC, 2 } })

    Name (\_SB.PCT3, Package () {
        ResourceTemplate () { Register (SystemIO, 8, 0, 0xE3) },
        ResourceTemplate () { Register (SystemIO, 8, 0, 0xE3) }
    })
    Name (\_SB.PSD3, Package () { Package () { 5, 0, 3, 0xFC, 2 } })

    External (\_SB.CPUS.C000, DeviceObj)
    Scope (\_SB.CPUS.C000)
    {
        Name (_PPC, 0)
        Method (_PSS) { Return (STAT) }
        Method (_PCT) { Return (PCT0) }
        Method (_PSD) { Return (PSD0) }
    }

    External (\_SB.CPUS.C001, DeviceObj)
    Scope (\_SB.CPUS.C001)
    {
        Name (_PPC, 0)
        Method (_PSS) { Return (STAT) }
        Method (_PCT) { Return (PCT0) }
        Method (_PSD) { Return (PSD0) }
    }

    External (\_SB.CPUS.C002, DeviceObj)
    Scope (\_SB.CPUS.C002)
    {
        Name (_PPC, 0)
        Method (_PSS) { Return (STAT) }
        Method (_PCT) { Return (PCT1) }
        Method (_PSD) { Return (PSD1) }
    }

    External (\_SB.CPUS.C003, DeviceObj)
    Scope (\_SB.CPUS.C003)
    {
        Name (_PPC, 0)
        Method (_PSS) { Return (STAT) }
        Method (_PCT) { Return (PCT1) }
        Method (_PSD) { Return (PSD1) }
    }

    External (\_SB.CPUS.C004, DeviceObj)
    Scope (\_SB.CPUS.C004)
    {
        Name (_PPC, 0)
        Method (_PSS) { Return (STAT) }
        Method (_PCT) { Return (PCT2) }
        Method (_PSD) { Return (PSD2) }
    }

    External (\_SB.CPUS.C005, DeviceObj)
    Scope (\_SB.CPUS.C005)
    {
        Name (_PPC, 0)
        Method (_PSS) { Return (STAT) }
        Method (_PCT) { Return (PCT2) }
        Method (_PSD) { Return (PSD2) }
    }

    External (\_SB.CPUS.C006, DeviceObj)
    Scope (\_SB.CPUS.C006)
    {
        Name (_PPC, 0)
        Method (_PSS) { Return (STAT) }
        Method (_PCT) { Return (PCT3) }
        Method (_PSD) { Return (PSD3) }
    }

    External (\_SB.CPUS.C007, DeviceObj)
    Scope (\_SB.CPUS.C007)
    {
        Name (_PPC, 0)
        Method (_PSS) { Return (STAT) }
        Method (_PCT) { Return (PCT3) }
        Method (_PSD) { Return (PSD3) }
    }
}
