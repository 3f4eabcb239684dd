package sfu

// redPrimary finds the primary encoding in a RED payload (RFC 2198 section 3): the last block,
// after the redundant ones. A subscriber without RED is sent that alone.
func redPrimary(payload []byte) ([]byte, bool) {
	skip := 0 // bytes of redundant data before the primary block
	for i := 0; i < len(payload); i += 4 {
		if payload[i]&0x80 == 0 { // F = 0: the last, one-byte header
			if start := i + 1 + skip; start <= len(payload) {
				return payload[start:], true
			}
			return nil, false
		}
		if i+4 > len(payload) {
			return nil, false
		}
		skip += int(payload[i+2]&0x03)<<8 | int(payload[i+3]) // block length: 10 bits
	}
	return nil, false
}
