# The smallest guest that does what a kernel does first: from the reset vector
# through protected mode into long mode with paging and SSE, a few thousand
# loads and stores, then exit code 99 through isa-debug-exit (port 0xf4).
# A KVM that runs real mode only (seen under nested and emulated hypervisors)
# passes a boot sector and hangs every 64-bit kernel; it hangs here as well.
#
#   as --32 -o probe.o probe.S && ld -m elf_i386 -Ttext 0 --oformat binary -o probe.bin probe.o
#
# QEMU maps the 64 KiB as the firmware at 0xF0000.
.code16
.globl _start
_start:
	cli
	mov	%cs, %ax
	mov	%ax, %ds
	lgdtl	gdtr
	xor	%ax, %ax
	mov	%ax, %ds
	movl	$0x2003, 0x1000		# PML4 -> PDPT
	movl	$0x3003, 0x2000		# PDPT -> PD
	movl	$0x83, 0x3000		# PD: 2 MiB, present, writable
	mov	$0x620, %eax		# PAE, OSFXSR, OSXMMEXCPT
	mov	%eax, %cr4
	mov	$0x1000, %eax
	mov	%eax, %cr3
	mov	$0xc0000080, %ecx	# EFER
	rdmsr
	or	$0x100, %eax		# LME
	wrmsr
	mov	$0x80000011, %eax	# PG, ET, PE
	mov	%eax, %cr0
	ljmpl	$8, $(0xf0000 + long)
.code64
long:
	mov	$16, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %ss
	mov	$0x9000, %esp
	xor	%eax, %eax
	cpuid
	mov	$0x100000, %edi
	mov	$0x8000, %ecx
	mov	$0x5a5a5a5a, %eax
	rep stosl
	mov	$0x100000, %esi
	mov	$0x2000, %ecx
	pxor	%xmm1, %xmm1
1:	movdqu	(%rsi), %xmm0
	pxor	%xmm0, %xmm1
	add	$16, %rsi
	loop	1b
	mov	$0xf4, %edx
	mov	$0x31, %eax
	out	%al, %dx		# QEMU exits with 0x31 << 1 | 1 = 99
2:	hlt
	jmp	2b
	.balign	8
gdt:	.quad	0
	.quad	0x00af9b000000ffff	# 8: 64-bit code
	.quad	0x00cf93000000ffff	# 16: data
gdtr:	.word	. - gdt - 1
	.long	0xf0000 + gdt
	.org	0xfff0, 0x90
.code16
reset:	ljmp	$0xf000, $_start	# leave the alias below 4 GiB
	.org	0x10000, 0x90
