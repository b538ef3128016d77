// Tensors as the vectors hold them: little-endian elements of the contract's type.

/// Numbers as bytes.
public func bytes(of numbers: [Float], as element: Element) -> [UInt8] {
    var found: [UInt8] = []
    for number in numbers {
        if element == .uint8 {
            found.append(UInt8(number))
            continue
        }
        let word = Int(number.bitPattern)
        for part in 0..<4 {
            found.append(UInt8((word >> (8 * part)) % 256))
        }
    }
    return found
}

/// Bytes as numbers.
public func numbers(of bytes: [UInt8], as element: Element) -> [Float] {
    var found: [Float] = []
    if element == .uint8 {
        for byte in bytes {
            found.append(Float(byte))
        }
        return found
    }
    for place in 0..<bytes.count / 4 {
        var word = 0
        for part in 0..<4 {
            word += Int(bytes[4 * place + part]) << (8 * part)
        }
        found.append(Float(bitPattern: UInt32(word)))
    }
    return found
}
