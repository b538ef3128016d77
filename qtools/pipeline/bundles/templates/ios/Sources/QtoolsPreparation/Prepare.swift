// From a picture to the numbers of the input tensor: size, crop, table, layout.

func halfToEven(_ x: Double) -> Int {
    return Int(x.rounded(.toNearestOrEven))
}

/// Height and width of a picture before the crop.
func goalSize(height: Int, width: Int, _ said: Preparation) -> Size {
    let goalHeight = Int((Double(said.size[0]) / said.keep).rounded(.down))
    let goalWidth = Int((Double(said.size[1]) / said.keep).rounded(.down))
    if said.crop == .squash { return Size(height: goalHeight, width: goalWidth) }
    if said.crop == .center && goalHeight == goalWidth {
        let grown = goalHeight * max(height, width) / min(height, width)
        return height <= width ? Size(height: goalHeight, width: grown) : Size(height: grown, width: goalWidth)
    }
    let tall: Double = Double(height) / Double(goalHeight)
    let wide: Double = Double(width) / Double(goalWidth)
    let ratio: Double = said.crop == .border ? max(tall, wide) : min(tall, wide)
    let newHeight = max(1, halfToEven(Double(height) / ratio))
    return Size(height: newHeight, width: max(1, halfToEven(Double(width) / ratio)))
}

/// Where the crop begins along a side; below zero where the side is too short.
func start(have: Int, goal: Int) -> Int {
    if have < goal { return -((goal - have) / 2) }
    return halfToEven(Double(have - goal) / 2.0)
}

/// A box of the picture behind resize and crop, as shares of the whole picture of this height and width: left, top,
/// right and bottom, which may lie beyond it.
public func uncut(_ box: [Double], height: Int, width: Int, _ said: Preparation) -> [Double] {
    let resized = goalSize(height: height, width: width, said)
    var found: [Double] = []
    for side in 0..<4 {
        let across = side % 2 == 0
        let goal = across ? said.size[1] : said.size[0]
        let have = across ? resized.width : resized.height
        let first = start(have: have, goal: goal)
        found.append((box[side] * Double(goal) + Double(first)) / Double(have))
    }
    return found
}

/// The middle of a picture, with `fill` around where it is smaller.
func cropped(_ picture: Picture, to size: Size, fill: [UInt8]) -> Picture {
    let top = start(have: picture.height, goal: size.height)
    let left = start(have: picture.width, goal: size.width)
    var data = [UInt8](repeating: 0, count: 3 * size.height * size.width)
    for y in 0..<size.height {
        for x in 0..<size.width {
            let row = y + top
            let column = x + left
            let inside = row >= 0 && row < picture.height && column >= 0 && column < picture.width
            for channel in 0..<3 {
                let at = 3 * (row * picture.width + column) + channel
                data[3 * (y * size.width + x) + channel] = inside ? picture.rgb[at] : fill[channel]
            }
        }
    }
    return Picture(height: size.height, width: size.width, rgb: data)
}

/// A picture as the numbers of the input, in the order of the contract's layout. Codes of an integer tensor are whole
/// numbers here, which Float holds exactly.
public func prepare(_ picture: Picture, _ contract: Contract) -> [Float] {
    let said = contract.preparation
    let goal = goalSize(height: picture.height, width: picture.width, said)
    let size = Size(height: said.size[0], width: said.size[1])
    let cut = cropped(resized(picture, to: goal, said.resize), to: size, fill: said.fill)
    let pixels = cut.height * cut.width
    var tensor = [Float](repeating: 0.0, count: 3 * pixels)
    for channel in 0..<3 {
        let from = said.colours == .bgr ? 2 - channel : channel
        let row = contract.input.table[channel]
        for pixel in 0..<pixels {
            let at = said.layout == .nchw ? channel * pixels + pixel : 3 * pixel + channel
            tensor[at] = Float(row[Int(cut.rgb[3 * pixel + from])])
        }
    }
    return tensor
}

/// The numbers of an input of kind `image` as rows of blue, green, red and 255, as a 32BGRA pixel buffer has them.
public func bgra(_ tensor: [Float], _ contract: Contract) -> [UInt8] {
    let pixels = tensor.count / 3
    var bytes = [UInt8](repeating: 255, count: 4 * pixels)
    for pixel in 0..<pixels {
        for channel in 0..<3 {
            let to = contract.preparation.colours == .bgr ? channel : 2 - channel
            bytes[4 * pixel + to] = UInt8(tensor[3 * pixel + channel])
        }
    }
    return bytes
}

/// A stored picture turned upright, as EXIF says: 1 is upright, 2 to 8 are mirrored or turned.
public func upright(_ picture: Picture, exif: Int) -> Picture {
    if exif < 2 || exif > 8 { return picture }
    let turned = exif >= 5
    let height = turned ? picture.width : picture.height
    let width = turned ? picture.height : picture.width
    var data: [UInt8] = []
    for y in 0..<height {
        for x in 0..<width {
            let down = turned ? x : y
            let across = turned ? y : x
            let row = exif == 3 || exif == 4 || exif == 6 || exif == 7 ? picture.height - 1 - down : down
            let column = exif == 2 || exif == 3 || exif == 7 || exif == 8 ? picture.width - 1 - across : across
            for channel in 0..<3 {
                data.append(picture.rgb[3 * (row * picture.width + column) + channel])
            }
        }
    }
    return Picture(height: height, width: width, rgb: data)
}
