// Tensors as the vectors hold them: little-endian elements of the contract's type.

/// Numbers as bytes.
public func bytes(of numbers: [Float], as element: Element) -> [UInt8] {
    var found: [UInt8] = []
    for number in numbers {
        switch element {
        case .int8: found.append(UInt8(bitPattern: Int8(number)))
        case .uint8: found.append(UInt8(number))
        case .int16: found += parts(UInt32(UInt16(bitPattern: Int16(number))), count: 2)
        case .float32: found += parts(number.bitPattern, count: 4)
        }
    }
    return found
}

/// Bytes as numbers.
public func numbers(of bytes: [UInt8], as element: Element) -> [Float] {
    switch element {
    case .int8: return bytes.map { Float(Int8(bitPattern: $0)) }
    case .uint8: return bytes.map { Float($0) }
    case .int16: return whole(bytes, count: 2).map { Float(Int16(bitPattern: UInt16($0))) }
    case .float32: return whole(bytes, count: 4).map { Float(bitPattern: $0) }
    }
}

private func parts(_ word: UInt32, count: Int) -> [UInt8] {
    return (0..<count).map { UInt8((word >> UInt32(8 * $0)) & 255) }
}

private func whole(_ bytes: [UInt8], count: Int) -> [UInt32] {
    return stride(from: 0, to: bytes.count - count + 1, by: count).map { first in
        (0..<count).reduce(UInt32(0)) { $0 | UInt32(bytes[first + $1]) << UInt32(8 * $1) }
    }
}
